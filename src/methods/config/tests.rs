use super::*;

#[test]
fn an_option_of_another_method_is_refused() {
    let options = [
        ("sigma", MethodOptions { sigma: Some(Sigma::OFFICIAL), ..Default::default() }, vec!["stop", "mae"]),
        ("tokens", MethodOptions { tokens: Some(TokenForm::Paper), ..Default::default() }, vec!["stop"]),
        ("noise_on", MethodOptions { noise_on: Some(NoiseOn::Both), ..Default::default() }, vec!["stop"]),
        ("covariance", MethodOptions { covariance: Some(Covariance::Fixed), ..Default::default() }, vec!["stop"]),
        (
            "target_resolution",
            MethodOptions { target_resolution: Some(TargetResolution::MaxPool), ..Default::default() },
            vec!["ijepa"],
        ),
        ("penalty", MethodOptions { penalty: "l1:0.01".parse().ok(), ..Default::default() }, vec!["ijepa"]),
        (
            "target_blocks",
            MethodOptions { target_blocks: Some(2), ..Default::default() },
            vec!["stop", "ijepa", "data2vec"],
        ),
        ("normalize_patches", MethodOptions { normalize_patches: Some(true), ..Default::default() }, vec!["mae"]),
    ];
    for name in MethodConfig::NAMES {
        assert_eq!(MethodConfig::new(name, &MethodOptions::default()).unwrap().name(), name);
        for (option, options, owners) in &options {
            match MethodConfig::new(name, options) {
                Ok(method) => assert!(owners.contains(&method.name())),
                Err(error) => {
                    assert!(!owners.contains(&name), "{option} for {name}");
                    assert!(error.to_string().contains(&format!("`{option}` means nothing to {name}")), "{error}");
                }
            }
        }
    }
    assert!(MethodConfig::new("simclr", &MethodOptions::default()).is_err());
}

/// Fields that came later have, in older files, the value that was the only one then.
#[cfg(feature = "checkpoint")]
#[test]
fn older_files_are_read() {
    let mae: MethodConfig = serde_json::from_str(r#"{"mae":{"normalize_patches":true}}"#).unwrap();
    assert_eq!(mae, MethodConfig::Mae { normalize_patches: true, sigma: None });
    let masks: Masking = serde_json::from_str(r#"{"random":{"ratio":0.75}}"#).unwrap();
    assert_eq!(masks, Masking::Random { ratio: 0.75, unit: 1 });
    for name in MethodConfig::NAMES {
        let method = MethodConfig::new(name, &MethodOptions::default()).unwrap();
        let text = serde_json::to_string(&method).unwrap();
        assert_eq!(serde_json::from_str::<MethodConfig>(&text).unwrap(), method, "{text}");
    }
}
